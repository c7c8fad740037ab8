"""Programs that test the product from outside; see CONTRIBUTING.md."""
