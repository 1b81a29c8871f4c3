"""The real parts that tests run against, each started by one class."""
