"""CEL expressions and `${…}` templates: references, bounded evaluation."""
