"""The pages of the web app, one file a page. Only `ui/` and `app.py` know Streamlit."""
