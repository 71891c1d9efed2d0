"""What Waybill decides, and nothing else: pure functions over frozen models, the standard library and pydantic."""
