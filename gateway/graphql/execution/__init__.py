"""Executes GraphQL documents: parse, validate, compile, bind, load, finish. `executor` describes the steps."""
