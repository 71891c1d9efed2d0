-- name: park
-- Keep events for later, or keep them for longer. Those of their streams that were to be looked at now stand behind
-- them again. What somebody has discarded stays discarded, and an event that comes again, and would stand behind itself,
-- stays what it is. $1 subscriber, then a list of each column; $9 is seconds.
with parking as (
  select *
  from unnest($2::bigint[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::int[], $9::float8[])
    as event (position, stream_id, event_id, event_type, state, reason, attempts, retry_in)
), parked as (
  insert into waybill.parked as known
    (subscriber, position, stream_id, event_id, event_type, state, reason, attempts, retry_at)
  select $1, position, stream_id, event_id, event_type, state, reason, attempts,
    clock_timestamp() + make_interval(secs => retry_in)
  from parking
  on conflict (subscriber, position) do update
  set state = excluded.state, reason = excluded.reason, attempts = excluded.attempts, retry_at = excluded.retry_at
  where known.state <> 'discarded' and (excluded.state <> 'behind' or known.state = 'retry')
)
update waybill.parked as later set state = 'behind', retry_at = null
from parking
where later.subscriber = $1 and later.stream_id = parking.stream_id and later.position > parking.position
  and later.state = 'retry' and later.position <> all ($2);

-- name: done
-- Forget events that a subscriber is done with; what stood behind them comes next. $1 subscriber, $2 positions.
with gone as (
  delete from waybill.parked where subscriber = $1 and position = any ($2) returning stream_id
)
update waybill.parked as next set state = 'retry'
where subscriber = $1 and stream_id in (select stream_id from gone) and state = 'behind' and position <> all ($2);

-- name: held_up
-- The streams whose events have to wait for the subscriber $1, because an earlier one does. $2 among these, or null.
select distinct stream_id from waybill.parked
where subscriber = $1 and state <> 'discarded' and ($2::text[] is null or stream_id = any ($2));

-- name: due
-- What a subscriber is to look at now: the events of streams whose first is due, in order. An index each finds those
-- that somebody has marked and those whose time has come, and leaves alone what waits. Of either it takes no more than
-- can be looked at. $1 subscriber, $2 limit.
with marked as (
  (select stream_id from waybill.parked where subscriber = $1 and state = 'retry' order by position limit $2)
  union
  (
    select stream_id from waybill.parked
    where subscriber = $1 and retry_at <= statement_timestamp()
    order by retry_at
    limit $2
  )
)
select its.*
from marked
cross join lateral (
  select state, retry_at from waybill.parked
  where subscriber = $1 and stream_id = marked.stream_id and state <> 'discarded'
  order by position
  limit 1
) as first
cross join lateral (
  select * from waybill.parked
  where subscriber = $1 and stream_id = marked.stream_id and state <> 'discarded'
  order by position
  limit $2
) as its
where first.state = 'retry' or first.retry_at <= statement_timestamp()
order by its.position
limit $2;

-- name: discards
-- How many events were given up for the subscriber $1.
select count(*) from waybill.parked where subscriber = $1 and state = 'discarded';

-- name: unblock
-- Let parked events be looked at that nothing holds up any more. $1 subscriber.
update waybill.parked as waiting set state = 'retry'
where subscriber = $1 and state = 'behind'
  and not exists (
    select from waybill.parked as earlier
    where earlier.subscriber = $1 and earlier.stream_id = waiting.stream_id and earlier.position < waiting.position
      and earlier.state <> 'discarded'
  )
  and not exists (
    select from waybill.parked as ahead
    where ahead.subscriber = $1 and ahead.stream_id = waiting.reason and ahead.state <> 'discarded'
  );

-- name: listed
-- Parked events, those that somebody has to see to first. $1 subscriber, or null for all of them, $2 limit.
select * from waybill.parked
where $1::text is null or subscriber = $1
order by array_position('{failed,retry,waiting,behind,discarded}', state), subscriber, position
limit $2;

-- name: among
-- What has become of events: $1 their subscribers, $2 their positions.
select parked.*
from unnest($1::text[], $2::bigint[]) as asked (subscriber, position)
join waybill.parked using (subscriber, position);

-- name: request_retry
-- Let parked events be looked at again. $1 subscriber and $2 stream, null for any.
update waybill.parked set state = 'retry', retry_at = null
where state <> 'discarded' and ($1::text is null or subscriber = $1) and ($2::text is null or stream_id = $2)
returning *;

-- name: request_discard
-- Give up the event that holds a stream up, and let those behind it be looked at. $1 subscriber, null for any, $2 stream.
with first as (
  select distinct on (subscriber) subscriber, position
  from waybill.parked
  where stream_id = $2 and ($1::text is null or subscriber = $1) and state <> 'discarded'
  order by subscriber, position
)
update waybill.parked as parked
set state = case when parked.position = first.position then 'discarded' else 'retry' end,
  discarded_at = case when parked.position = first.position then clock_timestamp() end,
  retry_at = null
from first
where parked.subscriber = first.subscriber and stream_id = $2 and state <> 'discarded'
returning parked.*;

-- name: counts
-- How many parked events each subscriber has, by their state.
select subscriber, state, count(*) from waybill.parked group by subscriber, state;

-- name: identity
-- Which database of which server this is.
select current_database(), pg_postmaster_start_time();
