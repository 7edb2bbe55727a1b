//! Data-plane I/O: listeners, HTTP and TCP, pools, mTLS, access log.
