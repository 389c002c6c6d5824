"""Django can be configured once in a process: for all tests."""

from __future__ import annotations

import django
from django.conf import settings

URLS = "tests_django_shop"
"""The module that a test makes its URLconf in."""

if not settings.configured:
    settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=URLS, SECRET_KEY="x", USE_TZ=True)
    django.setup()
