"""The documentation site: pages, generated references and executed code, put together and built by Sphinx."""
