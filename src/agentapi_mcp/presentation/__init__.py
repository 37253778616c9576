"""What a turn, an agent, a session, an error look like as JSON and Markdown, for every edge."""
