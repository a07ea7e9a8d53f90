"""The papers' tables and figures as studies: runs of presets, measured side by side"""
