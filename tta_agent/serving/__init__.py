"""The served model: deployment, drivers of model servers, the embedded server."""
