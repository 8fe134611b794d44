"""Finds a service through the C interface, with nothing but Python's own ctypes. Usage: discover.py LIBRARY URL TARGET."""

import ctypes
import json
import sys

library, url, target = sys.argv[1:]
fp = ctypes.CDLL(library)
fp.fp_client_new.restype = ctypes.c_void_p
fp.fp_subscribe.restype = ctypes.c_void_p
fp.fp_subscription_json.restype = ctypes.c_void_p


def call(function, *arguments):
    """Calls a function whose last argument is a place for a message."""
    error = ctypes.c_char_p()
    result = function(*arguments, ctypes.byref(error))
    if error.value is not None:
        raise RuntimeError(error.value.decode())
    return result


client = ctypes.c_void_p(call(fp.fp_client_new, url.encode(), None, None, None))
service = ctypes.c_void_p(call(fp.fp_subscribe, client, target.encode(), None))
if call(fp.fp_subscription_synced, service, ctypes.c_uint32(10_000)) != 1:
    sys.exit("the registry does not answer")
text = ctypes.c_void_p(call(fp.fp_subscription_json, service))
snapshot = json.loads(ctypes.cast(text, ctypes.c_char_p).value)
fp.fp_string_free(text)
for endpoint in snapshot["endpoints"]:
    print(endpoint["id"], *endpoint["addresses"])
try:
    call(fp.fp_subscribe, client, b"no service", None)
except RuntimeError as error:
    print(error, file=sys.stderr)
else:
    sys.exit("a bad name was taken")
fp.fp_subscription_free(service)
fp.fp_client_free(client)
