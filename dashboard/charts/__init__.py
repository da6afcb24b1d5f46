"""Charts as pure functions: plotly only, no Streamlit, no computing of results."""
