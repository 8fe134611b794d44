//! s
/// s
#[derive(Debug)] pub struct Selector; 
/// s
#[derive(Debug)] pub struct ParseSelectorError; 
