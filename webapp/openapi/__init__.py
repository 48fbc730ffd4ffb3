"""The API's description in OpenAPI 3.1: made from the routes and the signatures, for programs and for people."""
