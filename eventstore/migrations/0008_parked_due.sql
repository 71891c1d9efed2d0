-- What is due is asked twice a second, by each subscriber: that must not go through all that waits.
create index if not exists parked_to_retry on waybill.parked (subscriber, position) where state = 'retry';
create index if not exists parked_ripe on waybill.parked (subscriber, retry_at) where retry_at is not null;
