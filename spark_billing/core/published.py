"""What the provider says about itself and its bills: the facts that code rests on, each with its source.

The prices are data (`prices/lists`), and so is the time from which they are in force. No Spark in here.
"""

from __future__ import annotations

from decimal import Decimal

PRICE_LIST = "emr-serverless-spark"  # the bundled list: the page "Model calls (pay-as-you-go)" of this product
PROVIDER = "Alibaba Cloud"
# A service has one category in FOCUS: Spark's computing is another service than the models in its AI Center
SERVICE = "EMR Serverless Spark AI Center"
SETTLED_AFTER_HOURS = 48  # after its end until an hour is final: exports of bills settle within 24 to 48
AMOUNT_DECIMALS = 10  # of the amounts in a bill's lines, which are issued unrounded
CENT = Decimal("0.01")  # rounded down to it once, on the month's total
