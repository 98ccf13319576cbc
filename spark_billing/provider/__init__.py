"""The provider's bill, and why it differs from ours."""
