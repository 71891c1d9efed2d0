#!/bin/sh
# Creates the namespace and Waybill's search attributes, unless they are there, and waits until the server knows them.
set -eu

# Closed runs are for people to look at; the events of their orders stay for ever.
RETENTION=7d

# By number: the client asks about a name more than its address, and where no name server answers, it waits in vain.
host=${TEMPORAL_ADDRESS%:*}
address=$(getent hosts "$host" | awk '{print $1; exit}')
export TEMPORAL_ADDRESS="${address:-$host}:${TEMPORAL_ADDRESS##*:}"

# Tries a command once a second, for a minute; then lets it say what is wrong.
eventually() {
  for _ in $(seq 60); do
    "$@" >/dev/null 2>&1 && return
    sleep 1
  done
  "$@"
}

namespace() {
  temporal operator namespace describe --namespace "$TEMPORAL_NAMESPACE" ||
    temporal operator namespace create --namespace "$TEMPORAL_NAMESPACE" --retention "$RETENTION"
}

# One by one: of several names in one call, only the first would be created.
search_attributes() {
  for name in OrderNumber OrderStatus BusinessPartner; do
    temporal operator search-attribute create --name "$name" --type Keyword || return
  done
}

# Until the server has read them again, it refuses orders that carry them.
known() {
  temporal workflow count --query "OrderNumber = '' and OrderStatus = '' and BusinessPartner = ''"
}

eventually temporal operator cluster health
eventually namespace
eventually search_attributes
eventually known
echo "namespace $TEMPORAL_NAMESPACE: ready"
