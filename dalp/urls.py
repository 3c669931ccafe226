"""Every address of the web process."""

from django.contrib import admin
from django.urls import path
from django.views.generic import RedirectView

from dalp import custody_hints, health
from dalp.api import api
from dalp.console import second_factor

admin.autodiscover()

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("hooks/fireblocks", custody_hints.fireblocks),
    path("hooks/dfns", custody_hints.dfns),
    *second_factor.urls(admin.site),
    path("admin/", admin.site.urls),
    path("api/v1/", api.urls),
]
