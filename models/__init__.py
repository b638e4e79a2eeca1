"""What is computed: the MiniCPM decoder, and later its caches, quantised forms and vision branches."""
