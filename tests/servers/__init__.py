"""Catalogs of Iceberg, Delta and Paimon for tests: their jars, their servers, and the settings of Spark for each."""
