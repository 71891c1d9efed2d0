"""The read models that there are. A new one is a file of its own and a line here."""

from projections.orders import ORDERS
from projections.projection import Projection
from projections.shipments import SHIPMENTS

PROJECTIONS: tuple[Projection, ...] = (ORDERS, SHIPMENTS)
