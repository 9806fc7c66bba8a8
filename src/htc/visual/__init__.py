"""Drawing and charts: instances on images, curves, HTML pages and colors. It knows no model and no metric."""
