"""A record as one HTML file that needs no network: page, tables, pictures, and what draws them."""
