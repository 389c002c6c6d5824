"""The Django settings of all tests. Django can be configured only once in a process."""

from __future__ import annotations

import django
from django.conf import settings

URLS = "tests_django_shop"
"""The module in which a test creates its URLconf."""

if not settings.configured:
    settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=URLS, SECRET_KEY="x", USE_TZ=True)
    django.setup()
