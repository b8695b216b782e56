"""Pages that people read and files that they start from: rules, fields, completion, schemas, scaffolds."""
