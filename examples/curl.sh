#!/bin/sh
# The service from a shell. Start one first: vecstore serve shop.vecstore
#   sh examples/curl.sh http://127.0.0.1:7878 [KEY]
set -eu
url=${1:-http://127.0.0.1:7878}
call() {
    curl --silent --show-error --fail-with-body --header "Content-Type: application/json" \
        ${key:+--header "Authorization: Bearer $key"} "$@"
    echo
}
key=${2:-}

# A collection, made if it is not there.
call -X PUT "$url/v1/collections/birds" -d '{"dim": 3, "metric": "cosine"}'

# Rows: vectors as lists, or in one string as base64 of little-endian float32.
call "$url/v1/collections/birds/upsert" -d '{
  "ids": ["wren", "owl", "emu"],
  "vectors": [[0.1, 0.9, 0.2], [0.8, 0.3, 0.1], [0.9, 0.1, 0.7]],
  "metadata": [{"cm": 10}, {"cm": 60}, {"cm": 175}],
  "documents": ["sings", "hoots", null]}'

# Which are near?
call "$url/v1/collections/birds/query" -d '{
  "vector": [0.9, 0.2, 0.3], "k": 2, "where": {"cm": {"$gte": 50}},
  "include": ["metadata", "document"]}'

# Several at once; rows by id; how many.
call "$url/v1/collections/birds/search" -d '{"vectors": [[1, 0, 0], [0, 1, 0]], "k": 1}'
call "$url/v1/collections/birds/get" -d '{"ids": ["wren", "dodo"]}'
call "$url/v1/collections/birds/count" -d '{"where": {"cm": {"$lt": 100}}}'

# A write that must not be carried out twice has a key of its own; sent again, it is answered again.
for _ in 1 2; do
    call "$url/v1/collections/birds/add" -H "Idempotency-Key: a-heron" \
        -d '{"ids": ["heron"], "vectors": [[0.5, 0.5, 0.1]]}'
done

# All rows as JSON lines, and back into another collection.
call "$url/v1/collections/birds/export" --output birds.jsonl.gz
call -X PUT "$url/v1/collections/copy" -d '{"dim": 3, "metric": "cosine"}'
call "$url/v1/collections/copy/import" -H "Content-Type: application/gzip" \
    --data-binary @birds.jsonl.gz

# Tenants: each sees its own rows.
call -X PUT "$url/v1/collections/notes" -d '{"dim": 2, "tenants": true}'
call "$url/v1/collections/notes/upsert?tenant=ann" -d '{"ids": 1, "vectors": [1, 0]}'
call "$url/v1/collections/notes/grant?tenant=ann" -d '{"ids": [1], "to": "bob"}'
call "$url/v1/collections/notes/query?tenant=bob" -d '{"vector": [1, 0]}'

call "$url/v1/collections/birds/delete" -d '{"ids": ["heron"]}'
call -X DELETE "$url/v1/collections/copy"
call -X DELETE "$url/v1/collections/notes"
call -X DELETE "$url/v1/collections/birds"
