"""Drawing and charts: instances on images, curves, HTML pages and colors; independent of models and metrics."""
