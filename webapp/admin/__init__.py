"""The admin UI: pages for people. Every route names the role it asks for; one that names none is open to nobody."""
