-- Whether somebody wants parked events to be looked at again, or has given some up, is asked all the time.
create index if not exists parked_marked on waybill.parked (subscriber, state) where state in ('retry', 'discarded');
