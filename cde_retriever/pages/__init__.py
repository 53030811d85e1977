"""Write pages with plots and tables that open anywhere, without network."""
