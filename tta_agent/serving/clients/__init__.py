"""Parts that server drivers share: requests over HTTP and gRPC, version folders."""
