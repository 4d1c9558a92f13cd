"""TFLite graphs: reading, checking, editing, memory."""
