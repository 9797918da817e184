"""Serves one service's WSGI application on loopback: python serve.py PORT MODULE. Runs in the services' environment."""

import importlib
import sys

import waitress

port, module = sys.argv[1:]
sys.argv = [module]  # the services read sys.argv
if module.startswith("neutron"):  # without service plugins, nothing else loads these models in time
    importlib.import_module("neutron.db.migration.models.head")
    importlib.import_module("sqlalchemy.orm").configure_mappers()
waitress.serve(importlib.import_module(module).application, host="127.0.0.1", port=int(port), threads=8)
