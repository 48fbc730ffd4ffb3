"""The application that a common guide to deployment ends with: FastAPI, the scaler, the forest, asked twice."""

import os
from pathlib import Path

import joblib
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel, Field

# The file that the harness wrote a moment ago.
pipeline = joblib.load(Path(os.environ["BENCH_MODEL"]))
app = FastAPI()


class Person(BaseModel):
    """What the model takes."""

    age: int = Field(ge=18, le=100)
    income: float = Field(ge=0, le=1_000_000)
    credit_score: int = Field(ge=300, le=850)


class Answer(BaseModel):
    """What it says."""

    prediction: int
    probability: float
    model_version: str


@app.post("/predict")
async def predict(person: Person) -> Answer:
    """Scale, then ask for the label and for the probability, on the event loop as the guide does."""
    scaled = pipeline[0].transform(np.array([[person.age, person.income, person.credit_score]]))
    label = pipeline[1].predict(scaled)[0]
    probability = pipeline[1].predict_proba(scaled)[0].max()
    return Answer(prediction=int(label), probability=float(probability), model_version="1.0.0")
