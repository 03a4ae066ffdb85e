"""What serves: the deployment, drivers of model servers, the embedded server."""
