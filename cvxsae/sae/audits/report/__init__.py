"""An audit as one page that can be sent: its contents as plain data, its figures, and the page."""
