-- name: builds
-- The builds of all projections, each with its owner, if that one lives, and with what is parked of it, if $1
-- says so: that is counted one by one.
select projection, version, stage, projection_name as build, last_seen_event_number as position,
  case when lease_until > clock_timestamp() then rate else 0 end as rate,
  case when lease_until > clock_timestamp() then owner end as owner,
  case when $1
    then (select count(*) from waybill.parked where subscriber = projection_name and state <> 'discarded')
    else 0
  end as parked,
  started_at
from waybill.projections
join public.projection_versions using (projection_name)
where stage <> 'leftover'
order by projection, array_position('{live,next,retired}', stage), started_at;
