//! Judge certificate requests, sign, rotate roots.
