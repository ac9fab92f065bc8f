//! Runs the step loop and owns every request's life.
