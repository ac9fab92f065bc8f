//! Generated prost and tonic code of the pagewise.v1 package.
