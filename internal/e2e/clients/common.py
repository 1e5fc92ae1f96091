"""What the scripts of this folder share: where the host is, who asks, and how a wrong answer is told.

Each script drives one client library that nobody here wrote, unmodified, against a running capsuled. It ends with 0 and
prints "done" when everything was as it should be, and with a traceback otherwise.
"""
import json
import os

BASE = os.environ["CAPSULED_URL"]          # http://127.0.0.1:18080
TOKEN = os.environ["CAPSULED_TOKEN"]       # of a user
PROJECT = os.environ["CAPSULED_PROJECT"]   # of that token
IMAGES = json.loads(os.environ.get("CAPSULED_IMAGES", "{}"))  # name -> id, as capsulectl made them


def same(got, want, what):
    if got != want:
        raise AssertionError("%s: got %r, want %r" % (what, got, want))


def raises(kinds, call, *args, **kwargs):
    """The exception that a call must raise."""
    try:
        got = call(*args, **kwargs)
    except kinds as e:
        return e
    raise AssertionError("%r was expected, and %r came" % (kinds, got))
