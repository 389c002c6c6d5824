"""A shop's API on Django, in one file. The token decides which apps its holder may read or write.

Run it with any ASGI or WSGI server. Put TKDB_URL and TKDB_AUTHORITY into the environment, as `tkdb dev` prints them:

    hypercorn docs/examples/django_shop.py:application
"""

from __future__ import annotations

import os

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from tkdb_client import Access, Client, Policy
from tkdb_client.django import Verified, require, token_middleware

# In a project with several files, this belongs in its settings.
settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    MIDDLEWARE=[f"{__name__}.tokens"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.urandom(32).hex(),
)

tkdb = Client(policy=Policy(organization="acme", audience="shop"))
tokens = token_middleware(tkdb, realm="shop")
stock = {"shop": 3, "blog": 0}


def access(request: HttpRequest, app_id: str) -> Access:
    return Access(action="w" if request.method == "PUT" else "r", resource={"app": app_id})


def health(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


@csrf_exempt  # A browser never sends a bearer token on its own.
@require(access)
def app(request: HttpRequest, token: Verified, app_id: str) -> HttpResponse:
    if request.method == "PUT":
        stock[app_id] = int(request.GET["count"])
    return JsonResponse({"app": app_id, "stock": stock.get(app_id, 0), "organization": token.organization})


urlpatterns = [path("health", health), path("apps/<str:app_id>", app)]
application = get_asgi_application()
