"""The toolsets: each module or package here is one, and its name is the toolset's."""
