#!/bin/sh
# Brings Temporal's two databases to the schema of this version. It does nothing where that is done already.
set -eu

bring_up_to_date() {
  temporal-sql-tool --db "$1" setup-schema -v 0.0
  temporal-sql-tool --db "$1" update-schema -d "/etc/temporal/schema/postgresql/v12/$2/versioned"
}

bring_up_to_date temporal temporal
bring_up_to_date temporal_visibility visibility
