"""Every value that a command accepts, as hypothesis strategies."""

from decimal import Decimal

from hypothesis import strategies as st

from domain.values import Item

ids = st.uuids()
uoms = st.sampled_from(["KG", "MT"])


def _quantity(digits: int, decimals: int) -> Decimal:
    return Decimal(digits).scaleb(-decimals)


quantities = st.builds(
    _quantity, st.integers(min_value=1, max_value=999_999_999_999), st.integers(min_value=0, max_value=3)
)
"""At most 12 digits, at most 3 of them decimals."""

order_numbers = st.text(min_size=1, max_size=64).filter(lambda text: text.isprintable() and text.strip())
emails = st.emails(domains=st.sampled_from(["example.com", "northwind.example"])).filter(
    lambda address: "<" not in address and len(address) <= 64
)
items = st.builds(Item, product_id=ids, quantity=quantities, uom=uoms)
