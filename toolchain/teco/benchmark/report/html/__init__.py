"""A record as one HTML file that needs no network: page, tables, frames, and what draws them."""
