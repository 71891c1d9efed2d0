#!/bin/sh
# Creates the namespace and Waybill's search attributes, unless they are there, and waits until the server knows them.
set -eu

# Closed runs are for people to look at; the events of their orders stay for ever.
RETENTION=7d

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

search_attributes() {
  temporal operator search-attribute create --name OrderNumber --name OrderStatus --name BusinessPartner --type Keyword
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
