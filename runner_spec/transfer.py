"""The protocol between the runner in a pod and the gateway: paths, headers and the seal.

Standard library only: both sides import it.

Every request carries `Authorization: Bearer <projected token>`; the gateway knows from the token which pod, and so
which job, attempt and cache scope, is talking: none of them is named in a path.

| request                                       | body                    | answer                                     |
|-----------------------------------------------|-------------------------|--------------------------------------------|
| `PUT  /runner/v1/artifacts/{artifact}/{path}` | sealed                  | 201 `{"size", "sha256"}`                   |
| `PUT  /runner/v1/manifest`                    | JSON: `UploadReport`    | 204; stored as given                       |
| `PUT  /runner/v1/caches/{key}`                | sealed                  | 201; 200 `{"stored": false}`: it exists |
| `HEAD /runner/v1/caches/{key}`                |                         | 200 or 404: is a save needless?            |
| `GET  /runner/v1/caches?key=…&fallback=…`     |                         | 200 sealed + `Dynapod-Cache-Key`, or 404   |
| `PUT  /runner/v1/masks`                       | `{"values": [base64…]}` | 204; to hide in this attempt's logs        |

`fallback` may be repeated: prefixes, in order; of the entries under one the newest wins.

Path segments are percent-encoded; `{path}` keeps its slashes. Errors are JSON `{"error": "…", "remedy": "…"}`:
400 malformed, 401 no or bad token, 403 not this pod's, 404, 409 conflict, 413 over quota, 422 the seal does not match
(retry), 5xx and 429: try again later (429 and 503 with Retry-After).

The seal: a sealed body is the content followed by its 32-byte SHA-256 digest. The sender needs no second pass over
the content and the receiver no trailer support; a truncated or altered body never becomes visible. Cache entries are
stored and served with their seal, so a corrupted one is recognised by whoever restores it.
"""

from typing import Final

SEAL_BYTES: Final = 32
SEALED_TYPE: Final = "application/vnd.dynapod.sealed"

ARTIFACTS_PATH: Final = "/runner/v1/artifacts"
MANIFEST_PATH: Final = "/runner/v1/manifest"
CACHES_PATH: Final = "/runner/v1/caches"
MASKS_PATH: Final = "/runner/v1/masks"

# The key of the entry that is sent; percent-encoded where it is not visible ASCII, and `%` itself.
CACHE_KEY_HEADER: Final = "Dynapod-Cache-Key"
# The content's archive format, `tar.zst` or `tar.gz`: sent with PUT, stored with the entry, sent back with GET.
ARCHIVE_FORMAT_HEADER: Final = "Dynapod-Archive"
