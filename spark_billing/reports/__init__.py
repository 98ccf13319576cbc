"""The month, the page to look at, and what a run did, as a person reads them."""
