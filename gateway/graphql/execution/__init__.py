"""Runs GraphQL documents: parse, validate, compile, bind, execute."""
